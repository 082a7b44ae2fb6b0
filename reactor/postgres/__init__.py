"""The database as typed calls: connections, statements, notifications, tables, migrations."""
