"""What is minimised. Each objective declares its networks and gives their losses; the train step does the rest."""
