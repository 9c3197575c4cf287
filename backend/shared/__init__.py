"""See clients/key_client.py."""
