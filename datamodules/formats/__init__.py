"""Readers of file formats, one a file: JSONL folders, WebDataset shards, COCO, VQA, and tables in parquet or arrow.

`rows` says what a row must hold whatever file it comes from, `skipping` what happens to a bad one.
"""
