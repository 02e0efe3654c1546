"""An engine of vLLM servers: its command, its client, what runs inside the server, and how weights get there."""
