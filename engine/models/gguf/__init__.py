"""GGUF files: what llama.cpp writes, as config, tokenizer and weights of the families here."""
