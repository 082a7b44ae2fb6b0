"""What is outside: one module per thing the reactor talks to. No decisions are made here."""
