"""What others see of a running campaign: progress on the terminal, a log file, live status on an MQTT broker."""
