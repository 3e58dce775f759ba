"""Inference: models in memory, requests joined into batches, answers by tensors, rows or entity."""
