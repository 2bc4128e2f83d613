"""The processes of a training: their group, their launch on Ray, and the batch that one reads ahead."""
