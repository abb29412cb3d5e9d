from chassis.run import main

main("services.integration.app")
