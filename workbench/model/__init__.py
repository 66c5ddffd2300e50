"""Reading models: one lazy list of tensors with names, shapes, types and row access."""
