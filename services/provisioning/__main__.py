from chassis.run import main

main("services.provisioning.app")
