"""Where existing applications import the client from; see shared/clients/key_client.py."""
