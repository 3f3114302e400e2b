"""How the bundled demonstration models are made: data, tokenizer, training, evaluation, card."""
