"""The detector: a Faust app that turns folds of denials into verdicts, and verdicts into bans."""
