"""What a language model may see of a campaign, and propose, over the Model Context Protocol."""
