"""A text that filters leave as it is."""

# Some 60 words that break no rule of Gopher's or FineWeb's.
GOOD = (
    "The river runs past the old mill and turns to the south, where the water is slow.\n"
    "People of the town have walked along it for years, with dogs and children in tow.\n"
    "In winter it freezes from bank to bank, and that is when the skaters come out again.\n"
    "Nobody can say who built the bridge, but it stands firm and looks as if it always had."
)
