"""What the end-to-end tests do to a running lab: ask as stubs, read what each unit holds, kill, search."""
