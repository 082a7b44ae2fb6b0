"""What the reactor does: one module per kind of row that needs attention."""
