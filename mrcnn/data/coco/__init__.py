"""COCO annotations: read, check, convert to records, write."""
