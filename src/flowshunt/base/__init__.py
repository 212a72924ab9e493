"""What every layer may use and nothing else knows about: errors and the clock. Imports the standard library only."""
