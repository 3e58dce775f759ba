"""The native API: one module per noun, each with its `handlers`."""
