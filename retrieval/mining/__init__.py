"""Mining of training and test data: neighbours, duplicates and hard negatives."""
