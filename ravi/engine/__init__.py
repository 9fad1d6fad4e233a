"""What happens next: pure deciding (actions, policy, decide) and the effects of it (perform, loop)."""
