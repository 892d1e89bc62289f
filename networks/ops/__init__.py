"""Operations, checks and layers that networks share."""
