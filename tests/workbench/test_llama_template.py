"""Chat templates are code from strangers: what they may do, and what stops them."""

from __future__ import annotations

import signal
import time

import pytest

from quantdeck.workbench.llama import template as module
from quantdeck.workbench.llama.conversation import TemplateFailed, plain_prompt
from quantdeck.workbench.llama.template import ChatTemplate, fold_system

USER = {"role": "user", "content": "Hello"}


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(module, "TIME_LIMIT", 0.5)


def render(source, *messages):
    return ChatTemplate(source, "<s>", "</s>").render(messages or (USER,))


def test_what_templates_of_the_field_use():
    source = (
        "{{- bos_token }}{% for m in messages if m.role != 'tool' %}\n"
        "    {%- if loop.first and not tools %}[{{ m['role'] }}]{% endif %}\n"
        "    {%- generation %}{{ m.content | trim }}{% endgeneration %}{% if false %}{% break %}{% endif %}\n"
        "{%- endfor %}{% set ns = namespace(n=1) %}{% set ns.n = ns.n + 1 %}{{ ns.n }}"
        "{{ {'ä': '<'} | tojson }}{{ strftime_now('%Y')|length }}{{ eos_token }}{{ messages[::-1][0].role }}"
    )
    assert render(source, {"role": "user", "content": " Hi "}) == '<s>[user]Hi2{"ä": "<"}4</s>user'


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% for i in range(99999) %}{{ f(n) if false }}{% endfor %}{% endmacro %}"
        "{% for i in range(99999) %}{{ f(1) }}{% endfor %}",
        "{% for i in range(99999) %}{{ range(99999)|join('x')|length }}{% endfor %}",
    ],
)
def test_endless_work_is_stopped(source):
    began = time.monotonic()
    with pytest.raises(TemplateFailed, match="did not finish"):
        render(source)
    assert time.monotonic() - began < 20


def test_no_alarm_goes_off_after_the_time(monkeypatch):
    """The timer repeats: alarms that come while the first is dealt with must not hit what follows."""
    setitimer = signal.setitimer
    monkeypatch.setattr(module, "TIME_LIMIT", 0.01)
    monkeypatch.setattr(signal, "setitimer", lambda which, first, again=0.0: setitimer(which, first, again and 1e-4))
    for _ in range(300):
        with pytest.raises(TemplateFailed, match="did not finish"):
            render("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}")
        assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    time.sleep(0.01)


@pytest.mark.parametrize(
    "source",
    [
        "{% set ns = namespace(x='aaaaaaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% set ns = namespace(x=[1,2,3,4,5,6,7,8]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{{ 'x' * 99999999999 }}",
        "{{ [1] * 99999999999 }}",
        "{{ 'x'.center(99999999999) }}",
        "{{ '%99999999999d' | format(1) }}",
        "{{ 10 ** 10 ** 10 }}",
        "{% set ns = namespace(x=3) %}{% for i in range(60) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
        "{{ range(999999999) | list | length }}",
        "{% for i in range(99999) %}{{ 'x' * 99999 }}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ " + "(" * 500 + "1" + ")" * 500 + " }}",
    ],
)
def test_endless_appetite_is_stopped(source):
    began = time.monotonic()
    with pytest.raises(TemplateFailed):
        render(source)
    assert time.monotonic() - began < 20
    assert render("{{ messages[0].content }}") == "Hello"


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__.__base__.__subclasses__() }}",
        "{{ ''['__cl' ~ 'ass__'].mro() }}",
        "{{ self._TemplateReference__context.environment }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'x'}) }}",
        "{% include '/etc/passwd' %}",
        "{{ raise_exception('I refuse') }}",
        "{% if %}",
        "{{ undefined_function() }}",
    ],
)
def test_what_is_forbidden_fails_in_words(source):
    with pytest.raises(TemplateFailed) as raised:
        render(source)
    assert str(raised.value) and len(str(raised.value)) < 300


def test_a_template_of_endless_length():
    with pytest.raises(TemplateFailed, match="longer"):
        ChatTemplate("x" * (module.LONGEST_TEMPLATE + 1), "", "")


def test_a_system_turn_that_is_dropped_is_folded():
    drops = "{% for m in messages if m.role != 'system' %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    assert render(drops, {"role": "system", "content": "Be brief."}, USER) == "<user>Be brief.\n\nHello"
    assert fold_system([{"role": "system", "content": "S"}]) == [{"role": "user", "content": "S"}]


def test_the_plain_format():
    turns = [{"role": "system", "content": "Be brief."}, USER, {"role": "assistant", "content": "Hi."}, USER]
    assert plain_prompt(turns) == "Be brief.\n\nUser: Hello\n\nAssistant: Hi.\n\nUser: Hello\n\nAssistant:"
