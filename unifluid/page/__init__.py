"""The page in the browser: `work` runs the model, `inputs` checks what was entered, `handlers` are what buttons do,
`tabs` is what one sees, and `server` serves it to this machine alone. Nothing but `server` is imported from outside."""
