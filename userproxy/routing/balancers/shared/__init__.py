"""Ejection where several processes have connections to the same endpoints: one decides, and the others are told."""
