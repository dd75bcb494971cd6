"""Pure numerics: bounds, paired tests, corrections for looking often; every formula names its source."""
