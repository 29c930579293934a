"""What a recipe needs, present or missing, before any training starts (`distill data check`)."""
