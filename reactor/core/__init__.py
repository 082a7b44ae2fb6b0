"""What is true: values, rules and structures that touch nothing outside and never wait."""
