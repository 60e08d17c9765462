"""What people do from a shell: the `tickworks` command. Nobody imports this package."""
