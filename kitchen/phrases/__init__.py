"""Three disjoint pools of phrasings (narration, paired questions, test texts), and their nouns."""
