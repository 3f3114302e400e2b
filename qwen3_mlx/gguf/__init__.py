"""GGUF, llama.cpp's one file for a whole model: its header, its names, the folder it stands for."""
