"""What task code imports."""
