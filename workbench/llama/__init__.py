"""The only place that touches llama.cpp, always in a child process."""
