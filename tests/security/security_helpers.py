"""What these tests send."""

BUCKET = {"properties": {"text": {"type": "text"}, "file": {"type": "file"}}}
