"""What the server does and why: profiles, stacks, dumps, what was slow; and whether a machine and
its settings are fit for it (doctor), put together in a file for others (bundle)."""
