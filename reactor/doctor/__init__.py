"""The checks of `reactor doctor`. They find problems and name fixes. They delete their probe files and objects."""
