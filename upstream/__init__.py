"""The student as an upstream of s3prl."""
