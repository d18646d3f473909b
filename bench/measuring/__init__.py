"""Run an evaluation over images, hold models to their contract, and judge what attacks propose."""
