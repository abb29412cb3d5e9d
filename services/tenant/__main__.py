from chassis.run import main

main("services.tenant.app")
