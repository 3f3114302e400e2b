"""Texts to vectors and documents to scores: what Qwen3-Embedding and Qwen3-Reranker are for."""
