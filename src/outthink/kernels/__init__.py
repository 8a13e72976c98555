"""Operators behind one dispatch: the plain torch reference, and faster backends that must equal it."""
