"""GGUF, llama.cpp's single-file format: headers, names, and conversion to a model folder."""
