"""Embeddings and document scores, by Qwen3-Embedding and Qwen3-Reranker."""
