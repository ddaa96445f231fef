"""STOIC: chest CT with COVID-19 and severity labels."""
