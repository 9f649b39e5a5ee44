"""What joins objective, model and Lightning: the module, its optimizer, and the callbacks."""
