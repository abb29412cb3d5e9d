from chassis.run import main

main("services.customer.app")
