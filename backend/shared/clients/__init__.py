"""See key_client.py."""
