from siliforce.cli import main

main()
