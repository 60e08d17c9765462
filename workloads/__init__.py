"""What runs in containers and on hosts. Knows no account, no stack and no shell command."""
