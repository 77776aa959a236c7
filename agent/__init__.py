"""The autopilot: campaign, reconstruction, score, policy, journal, status and command line."""
