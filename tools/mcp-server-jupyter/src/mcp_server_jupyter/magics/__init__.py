"""`%mcp`, `%%mcp` and `%%tk`: a notebook asks the server it lives on. Imported in kernels, by `%load_ext` alone."""
