"""Safety of data: what must not be learnt by heart, or not be learnt at all.

| file        | what it answers                                                                    |
|-------------|------------------------------------------------------------------------------------|
| `personal`  | where are personal data and secrets, and what is written in their place            |
| `numbers`   | the shapes of numbers: cards, telephones, addresses of machines                    |
| `secrets`   | the shapes of keys, tokens, passwords, private keys                                |
| `checksums` | the arithmetic that tells an identity number from any other number                 |
| `toxic`     | how much of a text is insult, hate or pornography                                  |
| `injection` | instructions to a model hidden in a text; chat markers in a web page               |
| `licence`   | which licence is this, is it allowed here, and has the owner opted out             |
| `safe`      | all of these at once, as the pipeline calls them                                   |
"""
